"use strict";
// Say why there is no page, in its place. What stands here runs in browsers that lack what the rest needs.
function showFailure(error) {
  const text = document.createElement("p");
  text.className = "card";
  text.textContent = error.sentence || `This page is damaged or incomplete: ${error.message}. Make it again: vision-peft report RUNS --out report.html`;
  const main = document.getElementById("main");
  main.textContent = "";
  main.append(text);
  console.error(error);
}
