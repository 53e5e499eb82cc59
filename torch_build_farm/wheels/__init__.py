"""File formats: wheels, RECORD, METADATA, relocation, the wheels behind the one name, and ELF in `elf`."""
