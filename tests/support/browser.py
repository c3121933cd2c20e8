"""A headless Chromium of the system, driven by Selenium: one for all tests of a module."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A window of 1200 x 900 pixels without a network."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in QUIET:
        options.add_argument(flag)
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        resize(window, 1200)
        yield window
    finally:
        window.quit()


def resize(window: Any, width: int, theme: str = "light") -> None:
    """Make the window so wide, of a phone where it is narrow, for a user who prefers the theme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def list_complaints(window: Any) -> list[str]:
    """What the browser has logged since the last look: errors of scripts, what the policy of a page refused."""
    return [entry["message"] for entry in window.get_log("browser") if "favicon" not in entry["message"]]
