"""torch's SDK: what compiling and linking need of a torch release, as a wheel of some 14 MB in place of 4 GB.

exported_names  what torch's libraries export, from which link stubs are made
members         headers and CMake files out of the remote wheel, each compared with its RECORD
wheel           all of it together, as an installable torch that says one sentence when it is run
cache           the SDKs in the store
fallback        whether a build gets the SDK or all of torch

The names below identify an SDK. They are here, apart from the modules that make one, because every run reads them.
"""

LOCAL = "sdk"  # the local version of an SDK: 2.9.0+sdk
REFUSAL = "this is torch's SDK, which is for building and runs nothing (torch-build = full builds with all of torch)"
CONSTRAINTS = "constraints.txt"
# The environment variable that names the SDK's folder in its constraint; uv's --find-links would be the caller's.
VARIABLE = "TORCH_BUILD_FARM_SDK"


def version_of(release: str) -> str:
    """The version of a release's SDK, of which a flavour has the same."""
    public, _, _ = release.partition("+")
    return f"{public}+{LOCAL}"
