"""Say how long a run of the zoo will take."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-estimate``."""
    run("estimate")


if __name__ == "__main__":
    main()
