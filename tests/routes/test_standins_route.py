"""Stand-ins in ComfyUI's log when a workflow is queued."""

import logging

from pentimento.routes import standins


def test_the_log_names_the_stand_ins_of_a_queued_workflow(monkeypatch, caplog):
    monkeypatch.setattr(standins, "used", lambda prompt: ["standin-a.pt", "standin-b.pt"] if prompt else [])
    caplog.set_level(logging.WARNING)
    for request in ({"prompt": {}}, {}):
        assert standins.log_standins(request) is request
    assert not caplog.records
    request = {"prompt": {"1": {}}, "client_id": "x"}
    assert standins.log_standins(request) is request
    assert "(standin-a.pt, standin-b.pt)" in caplog.text
