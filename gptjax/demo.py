"""The whole job, offline, on the packaged checkpoint and text."""

import pathlib

from gptjax import api, assets, config, reporting

NEXT = """
Next, on your own checkpoint and text:

  gptjax prune configs/gpt2_prune.yaml model=gpt2 data.train=train.txt \\
      data.valid=valid.txt out=runs/mine
"""


def run(folder: pathlib.Path) -> api.Run:
    """Runs the demo into a folder, or goes on with it."""
    settings = config.load(assets.demo_config(), {"out": str(folder)})
    print(
        "A small GPT-2 that has read Jane Austen learns Shakespeare, then loses most "
        f"of its weights.\nConfig: {assets.demo_config()}\nRun folder: {folder}\n",
        flush=True,
    )
    done = api.run_pruning(settings)
    reporting.print_run(done.folder)
    print(NEXT)
    return done
