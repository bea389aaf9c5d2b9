// Command orders is the service of the tutorial, docs/tutorial.md.
package main
