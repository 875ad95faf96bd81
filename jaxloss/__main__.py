"""`python -m jaxloss` is the command line."""

from jaxloss.cli.main import run

if __name__ == "__main__":
    run()
