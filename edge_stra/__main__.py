"""`python -m edge_stra` is `edge-stra`; torchrun starts it so."""

from edge_stra.cli import main

main(prog_name="edge-stra")
