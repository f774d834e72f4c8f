"""Draw learning curves of stored runs and compare them."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-plot``."""
    run("plot")


if __name__ == "__main__":
    main()
