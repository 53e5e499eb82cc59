"""ELF shared libraries: reading local and remote ones, their hash tables, and writing link stubs."""
