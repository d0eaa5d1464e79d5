"""docs/configuration.md lists the settings of the services."""

from scripts.make_configuration_page import PAGE, SERVICES, page


def test_the_page_is_what_the_script_makes() -> None:
    assert PAGE.read_text() == page()


def test_every_setting_says_what_it_is() -> None:
    text = page()
    for service, settings in SERVICES.items():
        for name, field in settings.model_fields.items():
            assert field.description, name
            assert text.count(f"`NEUROSCOPE_{service.upper()}_{name.upper()}`") == 1
