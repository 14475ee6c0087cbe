"""NVIDIA OSMO workflows over the stages, and what checks, runs and submits them."""
