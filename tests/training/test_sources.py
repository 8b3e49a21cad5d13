"""Which files belong to a user's code."""

from __future__ import annotations


def test_this_programs_own_files_are_not_the_users(tmp_path, monkeypatch):
    """As where a module lies in the root of a checkout: the folder of the module has raysweep, too."""
    from raysweep.training import sources

    (tmp_path / "raysweep").mkdir()
    (tmp_path / "raysweep" / "__init__.py").write_text("")
    (tmp_path / "mynet.py").write_text("import raysweep\nimport helper\n")
    (tmp_path / "helper.py").write_text("")
    assert set(sources.collect("mynet:build", tmp_path).files) == {"mynet.py", "helper.py", "raysweep/__init__.py"}
    monkeypatch.setattr(sources, "OWN", tmp_path / "raysweep")
    assert set(sources.collect("mynet:build", tmp_path).files) == {"mynet.py", "helper.py"}
