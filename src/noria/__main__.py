"""``python -m noria``: the command line."""

from noria_cli import app

app(prog_name="noria")
