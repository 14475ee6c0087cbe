"""`python /workspace/train.py --config ...`, as teams know it: the same as `python -m stage2_train --config ...`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("stage2_train", run_name="__main__", alter_sys=True)
