"""Fetch a shared model: every option of rl_zoo3.load_from_hub, and ``--local``."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-load-from-hub``."""
    run("load_from_hub")


if __name__ == "__main__":
    main()
