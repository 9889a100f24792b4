"""Short texts between the processes of a run, kept by the first one: they need no device, so they pass where a collective hangs."""

import itertools

NAME = "jaxalign"  # before every key, as orbax and jax keep theirs in the same place
_USES: dict[str, itertools.count] = {}  # of the name of a barrier, which jax lets pass once


class Channel:
    """Texts under keys, which every process of the run reads and writes, and named barriers. Calls wait while the first process is stopped.

    jax keeps this client for libraries such as orbax, under a private name that this file alone uses.
    """

    def __init__(self):
        from jax._src import distributed

        self.number = distributed.global_state.process_id
        self.count = distributed.global_state.num_processes
        self._client = distributed.global_state.client

    def put(self, key: str, text: str) -> None:
        """Writes a text, over an older one."""
        self._client.key_value_set(f"{NAME}/{key}", text, allow_overwrite=True)

    def get(self, key: str) -> str | None:
        """The text under a key; None where there is none."""
        try:
            return self._client.key_value_try_get(f"{NAME}/{key}")
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def below(self, folder: str) -> dict[str, str]:
        """Key below FOLDER/ -> text, of all that stand there."""
        prefix = f"{NAME}/{folder}/"
        return {key.removeprefix(prefix): text for key, text in self._client.key_value_dir_get(prefix)}

    def wait(self, name: str, *, timeout_s: float) -> None:
        """Returns when all processes have called it as often with this name.

        Raises:
          Exception: of jax, where not all came in time.
        """
        use = next(_USES.setdefault(name, itertools.count()))
        self._client.wait_at_barrier(f"{NAME}/{name}/{use}", timeout_in_ms=int(timeout_s * 1000))


def connected() -> Channel | None:
    """The channel of this process; None where it is alone."""
    import jax

    channel = Channel() if jax.distributed.is_initialized() else None
    return channel if channel is not None and channel.count > 1 else None
