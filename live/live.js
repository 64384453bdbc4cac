// Keeps the table up to date with the events of the server. The page works without it.
'use strict'
const element = id => document.getElementById(id)
const rows = element('rows')
let all = '' // a new table that waits because the reader has something open in the old one
let changed = {} // rows that wait, by id

// busy reports whether the reader has opened something in an element, or uses it.
const busy = e => e.contains(document.activeElement) || e.querySelector('details[open]')

function update() {
  if (all && !busy(rows)) {
    rows.innerHTML = all
    all = ''
  }
  for (const id of Object.keys(changed)) {
    const old = element(id)
    if (all || old && busy(old)) continue
    if (old) old.outerHTML = changed[id]
    delete changed[id]
  }
  element('live').textContent = all ? 'The table waits while something in it is open.' : 'This page updates itself.'
}

const events = new EventSource('events')
events.onopen = update
events.onerror = () => { element('live').textContent = 'The connection is lost; trying again.' }
events.onmessage = event => {
  const change = JSON.parse(event.data)
  element('summary').textContent = change.summary
  element('at').textContent = change.at
  if (change.all) {
    all = change.all
    changed = {}
  }
  Object.assign(changed, change.rows)
  update()
}
rows.addEventListener('toggle', update, true)
rows.addEventListener('focusout', () => setTimeout(update))
