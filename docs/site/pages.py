"""All pages that are made of the code, by their place in docs/."""

import command_page
import config_pages
import python_page
import row_page

PAGES = {
    "reference/commands.md": command_page.make_page,
    "reference/settings.md": config_pages.make_settings_page,
    "reference/method_keys.md": config_pages.make_method_page,
    "reference/data.md": config_pages.make_data_page,
    "reference/experiments.md": config_pages.make_experiment_page,
    "reference/python.md": python_page.make_page,
    "reference/result_row.md": row_page.make_page,
}
