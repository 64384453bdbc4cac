package uds

const haveAbstract = true
