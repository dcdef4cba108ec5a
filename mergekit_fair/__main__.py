"""`python -m mergekit_fair …`, for launchers such as `accelerate launch -m`."""

from mergekit_fair.cli import main

if __name__ == "__main__":
    main()
