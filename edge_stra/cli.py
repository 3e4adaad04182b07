"""The command line, and the only place where everything meets. Heavy imports live inside the commands."""

from __future__ import annotations

from typing import Any

import click

from edge_stra import __version__
from edge_stra.commands import (
    bench,
    check,
    completion,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    gallery,
    gallery_calibrate,
    inspect,
    mil,
    models,
    run,
    train,
)
from edge_stra.extras import install_command
from edge_stra.quiet import printable
from edge_stra.spec import EdgeStraError, first_line

EXTRAS = {"cv2": "pi", "ai_edge_litert": "pi", "tensorboard": "train"}  # what brings a package; `export` the others


class Commands(click.Group):
    """Turns this project's errors into one line and exit code 1; --help keeps line breaks of examples."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeStraError as error:
            raise click.ClickException(printable(" ".join(str(error).split()))) from error
        except BrokenPipeError:
            raise  # click ends quietly where the reader has gone
        except OSError as error:
            from edge_stra.quiet import discard_standard_output

            discard_standard_output()
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(
                f"{where}{error.strerror or error}; look at the disk and at permissions"
            ) from error
        except MemoryError as error:
            raise click.ClickException(
                f"there is too little memory: {first_line(error) or 'none is left'}; take fewer or smaller pictures"
            ) from error
        except ModuleNotFoundError as error:
            command = ctx.invoked_subcommand
            usual = "train" if command == "train" else "export"
            extra = usual if command == "export" else EXTRAS.get(error.name or "", usual)
            raise click.ClickException(f"{error.name} is not installed; run: {install_command(extra)}") from error
        except ImportError as error:  # there, but a library below it is not, or is of another version
            raise click.ClickException(
                f"{error.name or 'a package'} can't be loaded: {first_line(error)}; install it again"
            ) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edge-stra")
def main() -> None:
    """MobileNetV2 with Structure-Regularized Attention: exact and fast on devices.

    \b
    Examples:
      edge-stra export --model mobilenetv2_stra.fer --quantize int8 --out out
      edge-stra run out/mobilenetv2_stra.fer.int8.tflite photo.jpg --out annotated.png
      edge-stra demo fer --web
      edge-stra gallery add --identity anna anna1.jpg anna2.jpg
      edge-stra check out/mobilenetv2_stra.fer.int8.tflite --layers
      edge-stra doctor
    """


MODULES = (models, export, check, inspect, mil, run, demo, gallery, evaluate, bench, train, explain, doctor, completion)
for module in MODULES:
    main.add_command(getattr(module, module.__name__.rpartition(".")[2]))
gallery.gallery.add_command(gallery_calibrate.calibrate)
