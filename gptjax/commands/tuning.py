"""The command that searches settings."""

from gptjax import options


def tune(
    config: options.Config,
    overrides: options.Overrides = None,
) -> None:
    """Searches settings of a run: learning rate, schedule, sparsities of layers, ...

    Of a config with a `tune` section, which names keys and what they may be; one with a
    `pruning` section is searched by what its last round comes to. Trials that do badly
    are stopped early. Writes `best.yaml`, `trials.csv` and pictures.

    Started again after an interruption, the same command goes on where it stopped;
    started on several machines that share the folder, it searches on all of them.
    """
    import pathlib

    from gptjax import api, tuning
    from gptjax import config as config_lib

    settings = config_lib.load(config, overrides or ())
    tuning.print_results(api.run_search(settings), pathlib.Path(settings.out))
