"""docs/configuration.md lists what the services can be told."""

from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_inference.settings import InferenceSettings
from scripts.make_configuration_page import PAGE, page


def test_the_page_is_what_the_script_makes() -> None:
    assert PAGE.read_text() == page()


def test_every_setting_says_what_it_is() -> None:
    text = page()
    for service, settings in (("INFERENCE", InferenceSettings), ("ANALYSIS", AnalysisSettings)):
        for name, field in settings.model_fields.items():
            assert field.description, name
            assert f"`NEUROSCOPE_{service}_{name.upper()}`" in text
