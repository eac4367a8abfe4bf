// Makes a passkey by a one-time link, enters with one, or signs with one. The link's secret stands behind # and is sent
// only from here.
"use strict";

const entry = document.querySelector("[data-entry]");
const button = entry.querySelector("[data-passkey]");
const problem = entry.querySelector("[data-problem]");
const token = window.location.hash.slice(1);

const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

function say(words) {
  problem.textContent = words;
  problem.hidden = !words;
}

async function send(path, content) {
  const answer = await fetch(path, {
    method: "POST",
    credentials: "same-origin",
    headers: { "content-type": "application/json", "x-csrf-token": entry.dataset.csrf || "" },
    body: JSON.stringify(content),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || String(answer.status));
  return found;
}

const named = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

async function register() {
  const options = await send("/enter/begin", { token });
  const publicKey = {
    ...options,
    challenge: bytes(options.challenge),
    user: { ...options.user, id: bytes(options.user.id) },
    excludeCredentials: named(options.excludeCredentials),
  };
  const made = await navigator.credentials.create({ publicKey });
  const response = {
    clientDataJSON: text(made.response.clientDataJSON),
    attestationObject: text(made.response.attestationObject),
  };
  await send("/enter/finish", { token, credential: { id: made.id, rawId: text(made.rawId), type: made.type, response } });
}

async function signed(options) {
  const publicKey = {
    ...options,
    challenge: bytes(options.challenge),
    allowCredentials: named(options.allowCredentials),
  };
  const found = await navigator.credentials.get({ publicKey });
  const response = {
    clientDataJSON: text(found.response.clientDataJSON),
    authenticatorData: text(found.response.authenticatorData),
    signature: text(found.response.signature),
    userHandle: found.response.userHandle ? text(found.response.userHandle) : null,
  };
  return { id: found.id, rawId: text(found.rawId), type: found.type, response };
}

async function login() {
  await send("/login/finish", await signed(await send("/login/begin", {})));
}

async function sign() {
  const credential = await signed(await send(`${entry.dataset.path}/begin`, {}));
  await send(`${entry.dataset.path}/finish`, { credential, reason: document.getElementById("reason").value });
}

const work = { register, login, sign };

button.addEventListener("click", async () => {
  if (!window.PublicKeyCredential) return say(entry.dataset.none);
  button.disabled = true;
  say("");
  try {
    await work[entry.dataset.entry]();
    window.location.assign(entry.dataset.next);
  } catch (error) {
    say(error instanceof DOMException ? entry.dataset.stopped : error.message);
    button.disabled = false;
  }
});
