"""One file a data source, with a function `build` and, where it has a paper, BIBTEX with that paper's entry; a file
that begins with an underscore is a helper."""
