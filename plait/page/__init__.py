"""The live page of runs, and the HTTP interface behind it: reads run directories, and changes nothing in them."""
