"""`python -m jaxalign.export`: writes the parameters of a training run as a Hugging Face checkpoint folder."""

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Restores a run's parameters and writes them to a folder that transformers loads."""
    parser = argparse.ArgumentParser(prog="python -m jaxalign.export", description=__doc__)
    parser.add_argument("--workdir", required=True, help="the training run's --workdir")
    parser.add_argument("--out", required=True, help="folder to write; must not exist")
    parser.add_argument("--step", type=int, help="checkpoint to export; the latest if not given")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the written weights")
    given = parser.parse_args(arguments)

    import jax  # here, so that --help is fast

    from jaxalign import checkpoint, sharding
    from jaxalign.hf.save import save

    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        model, params, tokenizer_folder = checkpoint.restore_params(given.workdir, step=given.step)
        save(given.out, model, params, tokenizer_from=tokenizer_folder, dtype=given.dtype)
    print(f"wrote {given.out} ({model.config.family}, {given.dtype})")


if __name__ == "__main__":
    main()
