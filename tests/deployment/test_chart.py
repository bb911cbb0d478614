"""The Helm chart: its values meet their schema, its command is one that plait accepts, and where Helm's library is
installed (`.ci/chart` installs it) it is rendered by Helm and checked against Kubernetes' own schemas."""

import json
import re

import pytest
import yaml

from tests.deployment.test_files import CHECKOUT, takes

CHART = CHECKOUT / "server" / "helm" / "plait"
CASES = {
    "as it is": {},
    "everything": {
        "arguments": ["--grace-s", "60"],
        "storage": {"className": "fast"},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "metrics": {"from": {"app": "prometheus"}},
    },
    "no metrics": {"metrics": {"enabled": False}},
}
BAD = [{"user": 0}, {"kitSecret": ""}, {"sevice": {}}, {"storage": {"size": "20"}}, {"service": {"type": "Ingress"}}]


def values(changes: dict) -> dict:
    found = yaml.safe_load((CHART / "values.yaml").read_text())
    for key, value in changes.items():
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


@pytest.mark.parametrize("changes", [*CASES.values(), *BAD], ids=[*CASES, *map(str, BAD)])
def test_values_meet_the_schema_and_mistakes_do_not(changes):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((CHART / "values.schema.json").read_text())
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(values(changes)))
    assert bool(errors) == (changes in BAD)


def test_the_server_of_the_chart_is_started_with_a_command_that_plait_accepts():
    template = (CHART / "templates" / "statefulset.yaml").read_text()
    (command,) = re.findall(r"^ +command: (\[plait, .*\])$", template, flags=re.MULTILINE)
    takes([*yaml.safe_load(command), "--metrics", "0.0.0.0:9441", *CASES["everything"]["arguments"]])
    kit = set(re.search(r"install -m 600 (.*) /kit/", template)[1].split()) | {"clients.json"}
    assert kit == {"ca.crt", "clients.json", "operator.token", "server.crt", "server.key"}


def test_the_state_of_the_chart_is_below_no_folder_that_others_can_change():
    # Kubernetes lets the group write the root of a volume, and with every start all files, unless it is told not to.
    template = (CHART / "templates" / "statefulset.yaml").read_text()
    (folder,) = re.findall(r"mountPath: /var/lib/plait\n +subPath: (\w+)$", template, flags=re.MULTILINE)
    assert f"mkdir -p /volume/{folder}\n" in template
    assert f"chmod 700 /volume/{folder}\n" in template
    assert re.search(r"^ +fsGroupChangePolicy: OnRootMismatch$", template, flags=re.MULTILINE)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_helm_renders_what_kubernetes_accepts(changes):
    chart = pytest.importorskip("helm_python.chart")
    kubernetes = pytest.importorskip("kubernetes_validate")
    assert not chart.lint(str(CHART))["errors"]
    with chart.Chart.load(str(CHART)) as loaded:
        rendered = loaded.render(values=changes, name="fed")
    found = {}
    for text in rendered.values():
        for document in yaml.safe_load_all(text):
            if document:
                kubernetes.validate(document, "1.37", strict=True)
                found[document["kind"]] = document
    assert set(found) == {"StatefulSet", "Service", "NetworkPolicy"}
    spec = found["StatefulSet"]["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    takes([*server["command"], *(server.get("args") or ())])
    assert found["Service"]["spec"]["selector"] == found["StatefulSet"]["spec"]["selector"]["matchLabels"]
    for container in (server, *spec["initContainers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {
            *(volume["name"] for volume in spec["volumes"]), "state",
        }  # fmt: skip
    has_metrics = changes.get("metrics", {}).get("enabled", True)
    assert ("--metrics" in (server.get("args") or ())) == has_metrics
    assert len(found["NetworkPolicy"]["spec"]["ingress"]) == 1 + ("from" in changes.get("metrics", {}))
