"""mlx-lm's own server on the BLAS that our service uses: `python -m tests.bench.peers.mlx_server` and its arguments."""

from neuroscope_inference import blas

blas.load()  # before mlx is imported

from mlx_lm.server import main  # noqa: E402

main()
