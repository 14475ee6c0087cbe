"""A workflow that is right, and what people write instead of its parts."""
# ruff: noqa: E501 (a table reads better with one mistake a line)

from osmo.check.spec import RELEASES

GOOD = """\
workflow:
  name: act
  timeout:
    exec_timeout: 24h
  resources:
    default:
      cpu: 8
      memory: 64Gi
      storage: 200Gi
  groups:
  - name: conversion
    tasks:
    - name: convert
      image: 192.168.1.100:5000/ur10e-act-train:latest
      command: [bash, -c]
      args: ['python -m stage1_convert --out "{{output}}/dataset"']
      inputs:
      - url: azure://account/container/bags
      outputs:
      - url: azure://account/container/lerobot
  - name: workers
    tasks:
    # {% for i in range(nodes) %}
    - name: "worker-{{ i }}"
      lead: "{{ 'true' if i == 0 else 'false' }}"
      image: 192.168.1.100:5000/ur10e-act-train:latest
      command: [bash, -c, "echo {{host:worker-0}} {{input:0}} {{input:convert}}"]
      environment:
        NODES: "{{ nodes }}"
      files:
      - path: /workspace/config.yaml
        contents: "a: 1"
      inputs:
      - task: convert
      exitActions:
        RESCHEDULE: 75
    # {% endfor %}
default-values:
  nodes: 2
"""

# What stands in GOOD, what somebody writes instead, the line on which it is named, what is said, and to which releases.
MISTAKES: list[tuple[str, str, int, str, tuple[str, ...]]] = [
    # the lines of the earlier guide
    ("192.168.1.100:5000/ur10e-act-train:latest\n      command: [bash, -c]", "ur10e-act-train:latest\n      command: [bash, -c]",
     14, "write its registry too: 192.168.1.100:5000/ur10e-act-train:latest", RELEASES),
    ("- url: azure://account/container/bags", "- localpath: ../../rosbag-to-lerobot/local_bags", 18,
     "bring a folder with osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER and - url:", RELEASES),
    ("contents: \"a: 1\"", "localpath: folder", 31, "is a folder: files: takes one text file", RELEASES),
    ("  - name: workers\n    tasks:", "  - name: workers\n    count: 4\n    tasks:", 22, "there is no count; write the tasks with {% for", RELEASES),
    ("groups:\n  - name: conversion\n    tasks:", "groups:\n    workers:\n      count: 4\n  x:\n  - tasks:", 10, "groups is a list", RELEASES),
    ("      command: [bash, -c]\n", "", 13, "command is missing: expected a list", RELEASES),
    ('"{{output}}/dataset"', '"{{ output }}/dataset"', 16, "a token takes no spaces; write {{output}}", RELEASES),
    ("- url: azure://account/container/lerobot", "- dataset: {name: ur10e-act-checkpoint}", 20,
     "datasets are gone in 6.4: keep results with - url:", ("6.4",)),
    ("- url: azure://account/container/bags", "- dataset: {name: bags, localpath: folder}", 18,
     "datasets are gone in 6.4: osmo data upload azure://ACCOUNT/CONTAINER/bags folder", ("6.4",)),
    ('name: "worker-{{ i }}"', 'name: "lr1e-5.kl10-{{ i }}"', 24, "a letter first and no dot, such as train-lr1e5-kl10", RELEASES),
    ("- task: convert", "- url: azure://account/container/lerobot", 34, "is written by convert, which does not make worker-0 wait; write - task: convert", RELEASES),
    ("- url: azure://account/container/bags", "- url: https://account.blob.core.windows.net/container/bags", 18,
     "expected azure://ACCOUNT/CONTAINER[/PATH]", RELEASES),
    # the form of the file
    ("default-values:", "labels: {a: b}\ndefault-values:", 38, "unknown top-level key labels", ("6.2", "6.3", "6.4")),
    ("  name: act\n", "  name: act\n  labels: {team: arm}\n", 3, "labels: came with 6.4", ("6.0", "6.1", "6.2", "6.3")),
    ("name: act\n", "name: 7act\n", 2, "a letter first", RELEASES),
    ("exec_timeout: 24h", "exec_timeout: 10h5m", 4, "one whole number with one unit, such as 24h", RELEASES),
    ("exec_timeout: 24h", "exec_timeout: 1.5h", 4, "one whole number with one unit", RELEASES),
    ("exec_timeout: 24h", "exec_timeout: PT24H", 4, "ISO 8601 came with 6.3", ("6.0", "6.1", "6.2")),
    ("memory: 64Gi", "memory: 64 GB", 8, "without a space, such as 64Gi", RELEASES),
    ("memory: 64Gi", "memory: 64GB", 8, "such as 64Gi", RELEASES),
    ("cpu: 8", "cpu: 0.5", 7, "expected a whole number", ("6.3", "6.4")),
    ("cpu: 8", "cpu: 8\n      topology: [{key: rack}]", 8, "topology came with 6.2", ("6.0", "6.1")),
    ("  resources:\n    default:", "  resources:\n    gpu:", 24, "resource default is not under workflow: resources: (there: gpu)", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      resources: {gpu: 4}\n", 16, "OSMO drops a task's own resources in silence", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      dependsOn: [a]\n", 16, "tasks are ordered by inputs: - task: NAME", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      retries: 3\n", 16, "exitActions: {RESCHEDULE: 75}", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      secrets: [a]\n", 16, "secrets are credentials:", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      credential: {a: /b}\n", 16, "did you mean credentials?", RELEASES),
    ("      command: [bash, -c]\n", "      command: bash -c\n", 15, "such as command: [bash, -c]", RELEASES),
    ("args: ['python -m stage1_convert --out \"{{output}}/dataset\"']", "args: [true]", 16, 'write true and false as "true" and "false"', ("6.3", "6.4")),
    ("      outputs:\n      - url: azure://account/container/lerobot\n", "      outputs:\n", 19, "put the whole key inside the {% if %}", RELEASES),
    ("- url: azure://account/container/lerobot", "- {url: azure://account/container/lerobot, path: /output}", 20, "there is no path here; write below {{output}}", RELEASES),
    ("- url: azure://account/container/lerobot", "- {url: azure://account/container/lerobot, regex: 'a{1,2}'}", 20, "an output's takes no comma", RELEASES),
    ("- url: azure://account/container/lerobot", "- url: azure://account", 20, "expected azure://ACCOUNT/CONTAINER[/PATH]", RELEASES),
    ("- url: azure://account/container/bags", "- dataset: bags", 18, "dataset: expected {name: NAME}", ("6.0", "6.3")),
    ("- url: azure://account/container/bags", "- dataset: {name: bags, localpath: nowhere}", 18, "nowhere does not exist", ("6.0", "6.3")),
    ("- url: azure://account/container/bags", "- dataset: {name: 'bags:3', localpath: folder}", 18, "takes no :tag", ("6.0", "6.3")),
    ("RESCHEDULE: 75", "RESTART: 75", 35, "write RESCHEDULE", RELEASES),
    ("RESCHEDULE: 75", "RESCHEDULE: 75 to 80", 36, "such as RESCHEDULE: 75,3001-3006", RELEASES),
    ("- path: /workspace/config.yaml", "- path: /osmo/config.yaml", 31, "that is not below /osmo", RELEASES),
    ("      - path: /workspace/config.yaml", "      - {path: /workspace/config.yaml, contents: b}\n      - path: /workspace/config.yaml", 32, "is given twice", RELEASES),
    ("contents: \"a: 1\"", "localpath: nowhere.yaml", 31, "does not exist; it is relative to the folder of the workflow file", RELEASES),
    ("contents: \"a: 1\"", "localpath: script.sh", 31, "holds {# in line 2, which the server renders as Jinja", RELEASES),
    ("contents: \"a: 1\"", "localpath: binary", 31, "is not one UTF-8 text file", RELEASES),
    # what spans the file
    ("name: convert\n", "name: worker_0\n", 24, "task worker-0 and task worker_0 share a name", RELEASES),
    ("name: conversion", "name: Convert", 13, "task convert and group Convert share a name", RELEASES),
    ("- task: convert", "- task: konvert", 34, "no such task; known: convert", RELEASES),
    ("- task: convert", "- task: worker-1", 34, "is in the same group", RELEASES),
    ("- url: azure://account/container/bags", "- task: worker-0", 18, "comes later in the file", RELEASES),
    ("'true' if i == 0 else 'false'", "'true'", 21, "group workers has 2 leads: exactly one", RELEASES),
    ("'true' if i == 0 else 'false'", "'false'", 21, "group workers has 0 leads: exactly one", RELEASES),
    ("nodes: 2", "nodes: 20", 1, "21 tasks: a workflow has at most 20", RELEASES),
    ("{{input:0}}", "{{input:1}}", 27, "the task has 1 inputs, counted from 0", RELEASES),
    ("{{input:convert}}", "{{input:train}}", 27, "train is no input task of worker-0", RELEASES),
    ("{{host:worker-0}}", "{{host:convert}}", 27, "a host is known in its own group only", RELEASES),
    ("{{host:worker-0}}", "{{uuid}}", 27, "use {{workflow_id}}", RELEASES),
    ("nodes: 2", "nodes: 2\n  path: '{{ nodes }}'", 1, "default-values are not rendered themselves: path", RELEASES),
    ("  name: act\n", "  name: act\n  name: act2\n", 3, "name is given twice", RELEASES),
]  # fmt: skip
