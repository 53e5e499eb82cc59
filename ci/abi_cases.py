#!/usr/bin/env python3
"""The verdicts that ci/abi_truth.py's results amount to, as the cases that `audit` is tested with.

    ci/abi_cases.py PACKAGES.toml RESULTS.json > CASES.toml

What the process did counts before what the loader said: a wheel that computes is OK, whatever else lies in it, and one
that loads and then computes wrong is BROKEN. The packages' [[note]] tables add what only a person can know: `wheel` and
`torch` patterns, `library`, `why`, and where needed another `verdict` or `seen`, or `skip`.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

# Torch's own libraries and CUDA's, which come with torch: one of another number is as missing as a symbol.
BROUGHT = re.compile(r"lib(c10|torch|cudart|cublas|cublasLt|cupti|nvrtc|cusparse|cusparseLt|cufft|cusolver|curand)\b")
# The loader's errors name a symbol that the interpreter or a host's package lacks: the environment's, not torch's.
HOST = re.compile(r"version `(GLIBC|GLIBCXX|CXXABI)_")


def alone(found: dict[str, Any]) -> dict[str, Any]:
    """What dlopen of one library says."""
    match found["result"]:
        case "ok":
            return {"verdict": "OK", "seen": "loads"}
        case "undefined":
            broken = {"verdict": "BROKEN", "seen": "breaks", "missing_first": found["missing_first"]}
            return broken | ({"missing": found["missing"]} if found["missing"] else {})
        case "library":
            brought = BROUGHT.match(found["library"])
            return {"verdict": "BROKEN" if brought else "ENV", "seen": "breaks", "libraries": [found["library"]]}
        case "error" if HOST.search(found["error"]):
            return {"verdict": "ENV", "seen": "breaks", "libraries": [found["error"].partition(": ")[0].split("/")[-1]]}
        case signal:
            return {"verdict": "BROKEN", "seen": "breaks", "layout": True, "how": str(signal)}


def ran(use: dict[str, Any]) -> dict[str, Any]:
    """What a process that loaded all of it says: right, wrong or dead."""
    if use["end"] == 0:
        return {"verdict": "OK", "seen": "computes"}
    last = [line for line in use["error"].splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)] or [""]
    how = str(use["end"]) if isinstance(use["end"], str) else last[-1][:120]
    return {"verdict": "BROKEN", "seen": "breaks", "layout": True, "how": how}


def together(apart: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A wheel that does not do its work, by its libraries: the worst of them."""
    for verdict in ("BROKEN", "ENV"):
        bad = [case for case in apart.values() if case["verdict"] == verdict]
        if bad:
            merged: dict[str, Any] = {"verdict": verdict, "seen": "breaks"}
            merged |= {key: bad[0][key] for key in ("missing_first", "how") if key in bad[0]}
            for key in ("missing", "libraries"):
                names = sorted({name for case in bad for name in case.get(key, [])})
                merged |= {key: names} if names else {}
            files = [file for file, case in apart.items() if case in bad]
            merged |= {"broken": files} if len(apart) > 1 else {}
            return merged | ({"layout": True} if all("layout" in case for case in bad) else {})
    return {"verdict": "OK", "seen": "loads"}


def judged(entry: dict[str, Any], found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The case of the wheel, and those of its libraries."""
    apart = {file: alone(one) for file, one in found["dlopen"].items() if ".libs/" not in file}
    use, worst = found["use"], together(apart)
    apart |= {file: ran(one) for file, one in found["each"].items()}
    imported = use["reached"] in ("import", "compute")
    if use["end"] == 0:
        whole = {"verdict": "OK", "seen": "computes"} if entry.get("compute") else worst
    elif worst["verdict"] == "OK" and (imported or isinstance(use["end"], str)):
        whole = ran(use)
    elif worst["verdict"] == "OK":  # Python's own code fails, before it comes to the libraries or after
        whole = worst | {"python": ran(use)["how"]}
    else:
        whole = worst
    if whole.get("seen") == "computes":
        apart = {
            file: ran(use) if file in use["mapped"] and file not in found["each"] else case
            for file, case in apart.items()
        }
    return whole, apart


def written(case: dict[str, Any]) -> str:
    why = f"  # {case['why']}" if "why" in case else ""
    lines = [f"{key} = {json.dumps(value)}" for key, value in case.items() if key != "why"]
    return "\n".join(["[[case]]", *(line + why if line.startswith("verdict") else line for line in lines), ""])


def noted(case: dict[str, Any], notes: list[dict[str, Any]]) -> dict[str, Any]:
    for note in notes:
        fits = fnmatch.fnmatch(case["wheel"], note["wheel"]) and fnmatch.fnmatch(case["torch"], note.get("torch", "*"))
        if fits and fnmatch.fnmatch(case.get("library", ""), note.get("library", "")):
            if "verdict" in note:  # what was seen stays in the results; here it would speak against the verdict
                case = {key: case[key] for key in ("wheel", "torch", "library", "verdict") if key in case}
            case |= {key: value for key, value in note.items() if key not in ("wheel", "torch", "library")}
    return case


def main() -> int:
    """Cases in the packages' order, then by release; a library has one where it differs from its wheel."""
    content = tomllib.loads(Path(sys.argv[1]).read_text())
    results = json.loads(Path(sys.argv[2]).read_text())
    notes = content.get("note", [])
    print("# Verdicts seen by really loading these wheels and computing with them: ci/abi_truth.py, ci/abi_cases.py.")
    print("# seen: computes, loads (and was not made to compute), breaks. library: the one judged; without, the wheel.")
    for entry in content["wheel"]:
        order = lambda key: [int(part) for part in key.split()[1].split(".")]  # noqa: E731
        for key in sorted((key for key in results if key.split()[0] == entry["file"]), key=order):
            where = {"wheel": entry["file"], "torch": key.split()[1]}
            if "skip" in noted(dict(where), notes):
                continue
            whole, apart = judged(entry, results[key])
            print("\n" + written(noted(where | whole, notes)), end="")
            for file, case in apart.items():
                if case["seen"] == "loads":
                    continue
                differs = any(case.get(name) != whole.get(name) for name in ("verdict", "seen", "layout"))
                if len(apart) > 1 and (differs or file in results[key]["each"]) and not re.search(r"\.so\.\d", file):
                    print("\n" + written(noted(where | {"library": file} | case, notes)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
