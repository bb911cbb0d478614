// The first hit of each query, by lunr with the fields of Material's worker, asked as docs/search.js has it ask.
// node hits.js LUNR SEARCH.JS INDEX QUERY…

const fs = require('fs')

const [lunrFile, searchFile, indexFile, ...queries] = process.argv.slice(2)
const lunr = require(lunrFile)
const allWords = new Function('Worker', `${fs.readFileSync(searchFile, 'utf8')}; return allWords`)(class {})
const index = lunr(function () {
  this.pipeline.reset()
  this.searchPipeline.reset()
  this.ref('location')
  this.field('title', { boost: 1000 })
  this.field('text')
  for (const doc of JSON.parse(fs.readFileSync(indexFile)).docs) {
    this.add({ ...doc, text: doc.text.replace(/<[^>]*>/g, ' ') }, { boost: doc.boost ?? 1 })
  }
})
console.log(JSON.stringify(queries.map((query) => index.search(allWords(query))[0]?.ref ?? '')))
