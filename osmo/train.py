"""`python /workspace/train.py --config ...` in the image is the same as `python -m stage2_train --config ...`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stage2_train", run_name="__main__", alter_sys=True)
