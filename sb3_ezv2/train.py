"""Train, resume or tune: every option of rl_zoo3.train, with ``--algo ezv2`` and the package's own settings implied."""

from sb3_ezv2.command_line import run


def main() -> None:
    """Entry point of ``ezv2-train``."""
    run("train")


if __name__ == "__main__":
    main()
