"""What is handed to a cluster, against what the cluster takes: unknown fields are errors here.

The schema of the RayJob holds those fields of KubeRay's CRD (ray.io/v1) and of a pod that the
manifest may use, with their types; sbatch's options are those of its manual.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml

from scenerl.launch.cli import main

TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def record(required: str, optional: str = "", **fields: Any) -> dict[str, Any]:
    """A JSON object with exactly these fields."""
    names = [*required.split(), *optional.split()]
    assert sorted(names) == sorted(fields)
    return {
        "type": "object",
        "required": required.split(),
        "properties": fields,
        "additionalProperties": False,
    }


def many(item: Any, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least}


META = record("name namespace labels", name=NAME, namespace=NAME, labels=TEXTS)
SECRET = record("secretKeyRef", secretKeyRef=record("name key", name=NAME, key=TEXT))
ENV = {
    "oneOf": [
        record("name value", name=TEXT, value=TEXT),
        record("name valueFrom", name=TEXT, valueFrom=SECRET),
    ]
}
MOUNT = record("name mountPath", "readOnly", name=NAME, mountPath=TEXT, readOnly=FLAG)
CONTAINER = record(
    "name image volumeMounts", "workingDir env resources securityContext",
    name=NAME, image=TEXT, workingDir=TEXT, env=many(ENV), volumeMounts=many(MOUNT),
    resources=record("limits", limits={"type": "object", "additionalProperties": COUNT}),
    securityContext=record("allowPrivilegeEscalation", allowPrivilegeEscalation={"const": False}),
)  # fmt: skip
VOLUME = {
    "oneOf": [
        record("name persistentVolumeClaim", name=NAME,
               persistentVolumeClaim=record("claimName", claimName=NAME)),
        record("name configMap", name=NAME, configMap=record("name", name=NAME)),
        record("name emptyDir", name=NAME,
               emptyDir=record("medium", medium={"enum": ["", "Memory"]})),
    ]
}  # fmt: skip
POD = record(
    "metadata spec",
    metadata=record("labels", labels=TEXTS),
    spec=record("containers volumes", containers=many(CONTAINER), volumes=many(VOLUME)),
)
WORKERS = record(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=NAME, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=TEXTS,
    template=POD,
)  # fmt: skip
CLUSTER = record(
    "rayVersion authOptions headGroupSpec", "workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=record("mode", mode={"const": "token"}),  # the CRD also takes "disabled"
    headGroupSpec=record("rayStartParams template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=many(WORKERS),
)  # fmt: skip
JOB = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=META,
    spec=record(
        "entrypoint submissionMode backoffLimit activeDeadlineSeconds shutdownAfterJobFinishes "
        "ttlSecondsAfterFinished rayClusterSpec",
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=CLUSTER,
    ),
)
LABELS = record("matchLabels", matchLabels=TEXTS)
PEER = record(
    "podSelector", "namespaceSelector",
    podSelector=LABELS, namespaceSelector={"type": "object", "maxProperties": 0},
)  # fmt: skip
POLICY = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "networking.k8s.io/v1"},
    kind={"const": "NetworkPolicy"},
    metadata=META,
    spec=record(
        "podSelector policyTypes ingress",
        podSelector=LABELS,
        policyTypes=many({"enum": ["Ingress", "Egress"]}),
        ingress=many(record("from", **{"from": many(PEER)})),
    ),
)
CONFIG_MAP = record(
    "apiVersion kind metadata data",
    apiVersion={"const": "v1"}, kind={"const": "ConfigMap"}, metadata=META, data=TEXTS,
)  # fmt: skip

SBATCH = {
    "job-name": r"[\w-]+", "nodes": r"[1-9]\d*", "ntasks-per-node": "1", "output": r"\S+|'[^']+'",
    "time": r"(\d+-)?\d+:\d\d:\d\d", "open-mode": "append|truncate", "requeue": "",
    "signal": r"B:USR1@\d+", "gpus-per-node": r"[1-9]\d*", "partition": r"\w+", "account": r"\w+",
}  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    command = ["stage1", "--config", "stage1", "data.path=data", "name=My run_1", "--print", *words]
    assert main(command) == 0
    return capsys.readouterr().out


def manifest(capsys: pytest.CaptureFixture[str], nodes: int = 3) -> list[dict[str, Any]]:
    text = printed(
        capsys, "--submit", "k8s", "--nnodes", str(nodes), "--gpus-per-node", "8",
        "--image", "lab/scenerl:1", "--volume-claim", "pvc", "--secret-env", "HF_TOKEN=hub:token",
    )  # fmt: skip
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_manifest_holds_only_what_kubernetes_and_kuberay_take(
    capsys: pytest.CaptureFixture[str], nodes: int
) -> None:
    documents = manifest(capsys, nodes)
    for document, schema in zip(documents, (CONFIG_MAP, POLICY, JOB), strict=True):
        jsonschema.validate(document, schema)


def misspell(spec: dict[str, Any]) -> None:
    spec["backOffLimit"] = spec.pop("backoffLimit")


def open_to_all(spec: dict[str, Any]) -> None:
    spec["rayClusterSpec"]["authOptions"]["mode"] = "disabled"


def write_a_secret(spec: dict[str, Any]) -> None:
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"].append({"name": "HF_TOKEN", "value": 7})


def say_numbers_as_text(spec: dict[str, Any]) -> None:
    spec["activeDeadlineSeconds"] = "86400"


@pytest.mark.parametrize("fault", [misspell, open_to_all, write_a_secret, say_numbers_as_text])
def test_a_wrong_manifest_is_noticed(
    capsys: pytest.CaptureFixture[str], fault: Callable[[dict[str, Any]], None]
) -> None:
    job = copy.deepcopy(manifest(capsys)[2])
    fault(job["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, JOB)


def test_the_batch_script_has_only_options_that_sbatch_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(
        capsys, "--submit", "slurm", "--nnodes", "4", "--gpus-per-node", "8", "--partition", "a100",
        "--account", "lab", "--time", "1-12:00:00",
    )  # fmt: skip
    lines = text.splitlines()
    assert lines[0].startswith("#!")
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[1 : 1 + len(directives)] == directives  # sbatch stops at the first command
    for line in directives:
        option, _, value = line.removeprefix("#SBATCH --").partition("=")
        assert re.fullmatch(SBATCH[option], value), line
    assert len(directives) == len(SBATCH)
