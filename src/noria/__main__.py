"""``python -m noria``: the command line."""

from noria_cli import app

if __name__ == "__main__":
    app(prog_name="noria")
