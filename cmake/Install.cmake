# cmake --install: the program, the libraries it links, and the bundled model.
