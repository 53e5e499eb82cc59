"""The code for GPUs in a library: for which architectures nvcc compiled it.

nvcc puts it into the section .nv_fatbin: containers, each with an entry for an architecture. Neither layout is
documented by NVIDIA; what is read here was compared with what nvcc 13.0 writes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping

from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.sections import sections

_CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of the entries
_MAGIC = (0xBA55ED50).to_bytes(4, "little")
# Kind, version, bytes of this header, bytes of the code; architecture; flags; bytes of the code before compression.
_ENTRY = struct.Struct("<HHIQ12xI8xQ8xQ")
_PTX, _MACHINE_CODE = 1, 2
_ARCHITECTURE_SPECIFIC, _FAMILY_SPECIFIC = 0x100000, 0x200000  # sm_90a, sm_100f
_COMPRESSED = 0xA000  # with LZ4 or zstd
# nvcc writes both kinds for what has no kernel too, and links such machine code into everything. Of what is compressed
# only the size is known here: 56 bytes of PTX and 1.5 kB of machine code, 94 bytes and 2.8 kB with an empty kernel.
_LARGEST_WITHOUT_KERNEL = {_PTX: 80, _MACHINE_CODE: 2048}  # bytes
_FORCES = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\()\s*["']([A-Za-z_]\w{1,60})["']""")
_ABOUT_CUDA = re.compile(r"(?i)cuda|gpu|force|arch")


def read_device_code(content: bytes) -> dict[str, int]:
    """How much device code of its own a library has, in bytes as they lie there, by architecture.

    Architectures are called as by nvcc: sm_90 for machine code, compute_90 for PTX. Raises ElfError for a damaged
    library.
    """
    sizes: dict[str, int] = {}
    for architecture, size in _entries(sections(content).get(".nv_fatbin", b"")):
        sizes[architecture] = sizes.get(architecture, 0) + size
    return sizes


def _entries(fat_binary: bytes) -> Iterator[tuple[str, int]]:
    """Architecture and size in bytes of each piece of code that has a kernel."""
    start = fat_binary.find(_MAGIC)
    while 0 <= start <= len(fat_binary) - _CONTAINER.size:
        _, _, header_size, size = _CONTAINER.unpack_from(fat_binary, start)
        end = min(start + header_size + size, len(fat_binary))
        entry = start + header_size
        while entry <= end - _ENTRY.size:
            fields = _ENTRY.unpack_from(fat_binary, entry)
            kind, _, entry_header_size, code_size, architecture, flags, whole_size = fields
            if entry_header_size < _ENTRY.size:
                raise ElfError("its device code is damaged")
            code = fat_binary[entry + entry_header_size : entry + entry_header_size + code_size]
            if kind in (_PTX, _MACHINE_CODE) and _has_kernel(kind, code, flags, whole_size):
                suffix = "a" if flags & _ARCHITECTURE_SPECIFIC else "f" if flags & _FAMILY_SPECIFIC else ""
                yield f"{'compute' if kind == _PTX else 'sm'}_{architecture}{suffix}", len(code)
            entry += entry_header_size + code_size
        start = fat_binary.find(_MAGIC, max(end, start + _CONTAINER.size))


def _has_kernel(kind: int, code: bytes, flags: int, whole_size: int) -> bool:
    """Whether an entry has a function in it."""
    if flags & _COMPRESSED:
        return whole_size > _LARGEST_WITHOUT_KERNEL[kind]
    if kind == _PTX:
        return b".entry" in code or b".func" in code
    return any(name.startswith(".text.") for name in sections(code))


def asked_for(architectures: tuple[str, ...]) -> list[str]:
    """The names in `cuda-arch-list` as `read_device_code` has them; names of GPU families are left out."""
    names = []
    for architecture in architectures:
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture)
        if match:
            number = f"{match[1]}{match[2]}{match[3]}"
            names.append(f"sm_{number}")
            if match[4]:
                names.append(f"compute_{number}")
    return names


def heaviest(device_code: Mapping[str, int], most: int = 8) -> str:
    """The architectures with the most code, the largest first, such as "sm_90a 61.0 MB, sm_80 20.5 MB"."""
    by_size = sorted(device_code.items(), key=lambda item: -item[1])
    return ", ".join(f"{architecture} {size / 1e6:.1f} MB" for architecture, size in by_size[:most])


def device_code_problems(found: Collection[str], architectures: tuple[str, ...], setup_script: str = "") -> list[str]:
    """What is missing of the device code that `cuda-arch-list` asks for, in one sentence; empty where nothing is.

    `setup_script` is the text of the source's setup.py, whose variables are named.
    """
    missing = []
    for name in asked_for(architectures):
        # Code for sm_90a is sm_90's too, on the one architecture that it is for.
        if not any(also in found for also in (name, f"{name}a", f"{name}f")):
            missing.append(name)
    if not missing:
        return []
    variables = sorted({name for name in _FORCES.findall(setup_script) if _ABOUT_CUDA.search(name)})
    reads = f"; setup.py reads {', '.join(variables[:8])}" if variables else ""
    if not found:
        return [
            f"the wheel has no device code, though cuda-arch-list asks for {', '.join(missing)}: the build took the "
            'machine for one without CUDA, as where setup.py asks torch.cuda.is_available(); set FORCE_CUDA = "1" in '
            f"environment, or what the project has for it{reads}"
        ]
    return [
        f"the wheel has no device code for {', '.join(missing)}, which cuda-arch-list asks for, but for "
        f"{', '.join(sorted(found))}: the project chooses architectures itself; pass it those of the list, or list "
        f"what it builds{reads}"
    ]
