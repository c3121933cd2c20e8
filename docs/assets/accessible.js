/* What scrolls can be reached by the keyboard, and the search has a name that a screen reader says. */
addEventListener("load", () => {
  document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search")
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, .md-typeset__table")) box.tabIndex = 0
})
