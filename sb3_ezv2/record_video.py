"""Record a video of a trained model: every option of rl_zoo3.record_video."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-record-video``."""
    run("record_video")


if __name__ == "__main__":
    main()
