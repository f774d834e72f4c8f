"""Look inside a trained model: values, imagination and searches as one page with pictures."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-inspect``; the module is not called ``inspect``, as one of Python's own is."""
    run("inspect")


if __name__ == "__main__":
    main()
