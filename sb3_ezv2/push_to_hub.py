"""Share a trained model: every option of rl_zoo3.push_to_hub, and ``--dry-run``."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-push-to-hub``."""
    run("push_to_hub")


if __name__ == "__main__":
    main()
