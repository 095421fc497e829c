"""`matchgraph ui`: a page to look at, on the same services that the command line and the Python API call."""
