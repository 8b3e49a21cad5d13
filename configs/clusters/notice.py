"""Tell Ray that the cloud will reclaim this machine: ``python notice.py aws`` or ``gcp``, on each spot machine.

Neither cloud tells Ray, and Ray 2.60 does not ask. This script asks the machine's metadata service every two seconds. When
the service announces the end of the machine, the script marks this node as draining, and raysweep saves and leaves it.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime

POLL_S = 2.0
LOCK = "/tmp/raysweep-notice.lock"  # one process of this script per machine, however often Ray is started there
AWS = "http://169.254.169.254"  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
GCP = "http://metadata.google.internal"  # https://cloud.google.com/compute/docs/instances/create-use-spot
GCP_LEFT_S = 30.0

_http = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # the service is on this machine's own network link


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with _http.open(request, timeout=5) as answer:
        return answer.read().decode()


def aws() -> float | None:
    """Seconds until this machine is stopped; None if there is no notice."""
    token = _ask(f"{AWS}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        text = _ask(f"{AWS}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    ends = datetime.fromisoformat(json.loads(text)["time"].replace("Z", "+00:00"))
    return max(0.0, ends.timestamp() - time.time())


def gcp() -> float | None:
    """The same for Google, which gives thirty seconds and does not say when they began."""
    told = _ask(f"{GCP}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GCP_LEFT_S if told.strip() == "TRUE" else None


CLOUDS: dict[str, Callable[[], float | None]] = {"aws": aws, "gcp": gcp}


def drain(left_s: float) -> None:
    """Mark this node as draining; it will be gone in ``left_s`` seconds."""
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    ray.init(address="auto", log_to_driver=False)
    context = ray.get_runtime_context()
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + left_s) * 1000)
    client = GcsClient(address=context.gcs_address)
    accepted, why = client.drain_node(context.get_node_id(), reason, "The cloud will reclaim this machine.", deadline)
    print("Ray has marked this node as draining." if accepted else f"Ray refused to drain this node: {why}", flush=True)


def watch(ask: Callable[[], float | None]) -> None:
    """Wait for a notice; then tell Ray, and return."""
    while True:
        try:
            left = ask()
        except (OSError, ValueError, KeyError) as error:  # the service does not always answer
            print(f"{type(error).__name__}: {error}", flush=True)
            left = None
        if left is not None:
            drain(left)
            return
        time.sleep(POLL_S)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in CLOUDS:
        sys.exit(f"usage: notice.py {' | '.join(CLOUDS)}")
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        watch(CLOUDS[sys.argv[1]])


if __name__ == "__main__":
    main()
