"""Parts of benchmarks/peers.py: the environments, the comparison, and one worker script a library.

The workers run by path, in environments that know nothing of this package; they share common.py.
"""
