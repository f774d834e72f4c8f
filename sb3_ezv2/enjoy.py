"""Watch and evaluate a trained model: every option of rl_zoo3.enjoy."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-enjoy``."""
    run("enjoy")


if __name__ == "__main__":
    main()
