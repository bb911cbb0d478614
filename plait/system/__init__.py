"""What plait asks of the operating system: files, processes, addresses, text, memory and compilers."""
