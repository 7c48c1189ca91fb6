"""One file a data source, with a function `build`; a file that begins with an underscore is a helper."""
