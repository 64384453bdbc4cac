// Looks at the live page of a program in Chromium.
//
//   node look.mjs [-screenshot FILE] ADDRESS
//
// It prints "open" when the page is there. Then a process must be killed and replaced by one
// of the same name. Both must appear without a reload, and without JavaScript after one. A
// user of the keyboard or of a screen reader must reach everything, and axe-core must find
// nothing serious. The environment variable CHROMIUM names the browser if it has another path.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import puppeteer from 'puppeteer-core'

const args = process.argv.slice(2)
const screenshot = args[0] === '-screenshot' ? args.splice(0, 2)[1] : ''
const [address] = args
const timeout = 120_000 // finds a page that hangs
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'], // root has no sandbox
  defaultViewport: { width: 1680, height: 372 },
  timeout,
  protocolTimeout: timeout
})
try {
  const page = await browser.newPage()
  page.setDefaultTimeout(timeout)
  const errors = []
  page.on('pageerror', e => errors.push(e.message))
  page.on('console', m => { if (m.type() === 'error') errors.push(m.text()) })
  const plain = await browser.newPage()
  await plain.setJavaScriptEnabled(false)
  await plain.goto(address)
  assert.equal(await plain.evaluate(replaced), '')
  await page.bringToFront()
  await page.goto(address)
  await page.waitForFunction(() => live.textContent === 'This page updates itself.')
  await page.evaluate(() => { window.mark = 'not loaded again' })
  console.log('open')

  const name = await (await page.waitForFunction(replaced)).jsonValue()
  assert.equal(await page.evaluate(() => window.mark), 'not loaded again')
  console.log(`${name} was replaced before the reader's eyes`)

  await keyboard(page)
  await outline(page)
  for (const scheme of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }])
    await accessible(page, scheme)
  }
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'light' }])
  if (screenshot) await page.screenshot({ path: screenshot })

  await plain.reload()
  assert.equal(await plain.evaluate(replaced), name)
  assert.match(await plain.$eval('#live', e => e.textContent), /load it again/)
  console.log('the page without JavaScript has the new process after a reload')
  assert.deepEqual(errors, [])
} finally {
  await browser.close()
}

// replaced returns the name of a process that has two rows: one was killed, one is ready.
function replaced () {
  const rows = [...document.querySelectorAll('#rows tr')].map(row => ({
    name: row.querySelector('th').textContent,
    state: row.cells[1].textContent,
    more: row.cells[19].textContent
  }))
  const killed = rows.filter(r => r.state === 'ended' && r.more.includes('signal: killed'))
  return rows.find(r => r.state === 'ready' && killed.some(k => k.name === r.name))?.name ?? ''
}

// keyboard opens the list of calls of a process, and reaches each link and control by Tab.
async function keyboard (page) {
  const missed = new Set(await page.evaluate(controls))
  const all = missed.size
  for (let i = 0; i < 3 * all && missed.size > 0; i++) { // a table that was replaced begins anew
    await page.keyboard.press('Tab')
    missed.delete(await page.evaluate(focused))
  }
  assert.deepEqual([...missed], [], 'Tab does not reach these')
  await page.evaluate(() => document.querySelector('#rows summary').focus())
  await page.keyboard.press('Enter')
  await page.waitForSelector('#rows details[open] pre')
  console.log(`Enter opens: ${await page.$eval('#rows details[open] pre', e => e.textContent)}`)
  await page.keyboard.press('Enter')
  await page.evaluate(() => document.activeElement.blur())
  console.log(`the keyboard reaches ${all} links and controls`)
}

// controls returns all links and controls of the page, each as focused does.
function controls () {
  const all = document.querySelectorAll('a[href], button, summary, [tabindex="0"]')
  return [...all].map(e => `${e.closest('tr')?.id} ${e.localName} ${e.getAttribute('href')}`)
}

function focused () {
  const e = document.activeElement
  return `${e.closest('tr')?.id} ${e.localName} ${e.getAttribute('href')}`
}

// outline checks what a screen reader lists.
async function outline (page) {
  const root = await page.accessibility.snapshot({ interestingOnly: false })
  const roles = {}
  const visit = node => {
    (roles[node.role] ??= []).push(node.name)
    for (const child of node.children ?? []) visit(child)
  }
  visit(root)
  assert.equal(roles.heading.length, 1)
  assert.match(roles.heading[0], /^Processes of /)
  for (const role of ['banner', 'main', 'navigation', 'table', 'status']) {
    assert.equal(roles[role]?.length, 1, role)
  }
  assert.match(roles.table[0], /^The tree of processes/)
  for (const column of ['Process', 'State', 'PID', 'Restarts', 'Calls']) {
    assert.ok(roles.columnheader.includes(column), column)
  }
  assert.ok(roles.rowheader.some(name => name.startsWith('level 2: ')), `${roles.rowheader}`)
  console.log(`a screen reader has ${roles.rowheader.length} rows by name`)
}

// accessible checks the page by the rules of axe-core.
async function accessible (page, scheme) {
  await page.evaluate(axe)
  const result = await page.evaluate(() => window.axe.run())
  const serious = result.violations.filter(v => ['serious', 'critical'].includes(v.impact))
  assert.deepEqual(serious.map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.html)}`), [])
  console.log(`axe-core, ${scheme}: ${result.passes.length} rules passed, ` +
    `${result.violations.length} violated`)
}
