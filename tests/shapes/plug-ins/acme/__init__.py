from . import _core  # noqa: F401


def main():
    print(1)
