"""The live page of runs, and the HTTP interface behind it: reads run directories, and changes nothing in them."""

from plait.feature import Feature

FEATURE = Feature(
    name="page",
    help="a live page of runs in the browser",
    verbs={"report --live": "plait.features.page.watch_verb:watch"},
    live_page="plait.features.page.beside:PAGE",
)
