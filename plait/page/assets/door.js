// Uses the link that is in the address, and goes to the page. What stands after # is sent to no server, and a program
// that looks at a link before a person does cannot use it up.

const link = location.hash.slice(1);
if (location.pathname === "/enter" && link) {
  history.replaceState(null, "", "/enter");
  const answer = await fetch("/api/enter", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ link }),
  });
  if (answer.ok) location.replace("/");
  else document.getElementById("door").textContent = (await answer.json()).error;
}
