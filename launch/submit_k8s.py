"""A KubeRay RayJob for a run, with its settings, a token, and a network that only it can enter."""

import argparse
from typing import Any

from scenerl.configs.load import to_yaml
from scenerl.configs.schema import ConfigError
from scenerl.launch.plan import RAY_ENVIRONMENT
from scenerl.launch.submit import Job, quoted

RAY_VERSION = "2.60.0"
CONFIG_DIR = "/etc/scenerl"
RETRIES = 10
"""Times that KubeRay starts the job again after the end of its head pod; the run continues."""


def render_rayjob(job: Job, arguments: argparse.Namespace) -> str:
    """Return ConfigMap, NetworkPolicy and RayJob as one YAML stream.

    Raises:
        ConfigError: If the image or the volume is not given, or a secret is not a reference.
    """
    import yaml

    for option, value in (("--image", arguments.image), ("--volume-claim", arguments.volume_claim)):
        if not value:
            raise ConfigError(
                f"--submit k8s needs {option}; `launch stage1 --help` says what it is"
            )
    documents = [_config_map(job, arguments), _network_policy(job, arguments)]
    documents.append(_ray_job(job, arguments))
    return yaml.safe_dump_all(documents, sort_keys=False)


def _metadata(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "scenerl", "scenerl/run": job.name}
    return {"name": job.name, "namespace": arguments.namespace, "labels": labels}


def _config_map(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, arguments),
        "data": {"config.yaml": to_yaml(job.config)},
    }


def _network_policy(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Only the pods of the run reach each other; nobody else reaches them."""
    pods = {"matchLabels": {"scenerl/run": job.name}}
    operator = {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, arguments),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": pods},
                        {"podSelector": operator, "namespaceSelector": {}},
                    ]
                }
            ],
        },
    }


def _ray_job(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    cluster = job.config.cluster
    command = quoted(job.words(f"{CONFIG_DIR}/config.yaml"))
    cluster_spec: dict[str, Any] = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "disable-usage-stats": "true"},
            "template": _pod(job, arguments),
        },
    }
    if cluster.nnodes > 1:
        cluster_spec["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": cluster.nnodes - 1,
                "minReplicas": cluster.nnodes - 1,
                "maxReplicas": cluster.nnodes - 1,
                "rayStartParams": {},
                "template": _pod(job, arguments),
            }
        ]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(job, arguments),
        "spec": {
            "entrypoint": command,
            "submissionMode": "K8sJobMode",
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": _seconds(arguments.time),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": cluster_spec,
        },
    }


def _pod(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    gpus = job.config.cluster.gpus_per_node
    container: dict[str, Any] = {
        "name": "ray",
        "image": arguments.image,
        "workingDir": arguments.mount,
        "env": [
            *({"name": name, "value": value} for name, value in RAY_ENVIRONMENT.items()),
            *(_secret(text) for text in arguments.secret_env),
        ],
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "data", "mountPath": arguments.mount},
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    return {
        "metadata": {"labels": {"scenerl/run": job.name}},
        "spec": {
            "containers": [container],
            "volumes": [
                {
                    "name": "data",
                    "persistentVolumeClaim": {"claimName": arguments.volume_claim},
                },
                {"name": "config", "configMap": {"name": job.name}},
                {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
            ],
        },
    }


def _secret(text: str) -> dict[str, Any]:
    """Return an environment variable that Kubernetes fills from a Secret."""
    name, equals, reference = text.partition("=")
    secret, colon, key = reference.partition(":")
    if not (name and equals and secret and colon and key):
        raise ConfigError(
            f"--secret-env {text!r} is not NAME=SECRET:KEY; a secret is given by reference to a "
            "Kubernetes Secret, never by value"
        )
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _seconds(text: str) -> int:
    """Read H:M:S, or days-H:M:S as SLURM writes it."""
    days, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if len(parts) != 3 or not all(p.isdigit() for p in parts) or (days and not days.isdigit()):
        raise ConfigError(f"--time is {text!r}; expected hours:minutes:seconds, such as 24:00:00")
    hours, minutes, seconds = map(int, parts)
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
